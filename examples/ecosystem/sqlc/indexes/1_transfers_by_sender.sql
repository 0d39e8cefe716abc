CREATE INDEX ASYNC sqlc_transfers_by_sender ON sqlc_transfers (sender);
