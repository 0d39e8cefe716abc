CREATE TABLE sqlc_transfers (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    sender uuid NOT NULL,
    receiver uuid NOT NULL,
    amount bigint NOT NULL
);
