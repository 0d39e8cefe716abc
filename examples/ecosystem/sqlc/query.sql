-- name: OpenAccount :exec
INSERT INTO sqlc_accounts (owner, balance) VALUES ($1, $2);

-- name: Accounts :many
SELECT * FROM sqlc_accounts ORDER BY owner;

-- name: AccountOf :one
SELECT * FROM sqlc_accounts WHERE owner = $1;

-- name: Deposit :exec
UPDATE sqlc_accounts SET balance = balance + @amount WHERE id = @id;

-- name: NoteTransfer :exec
INSERT INTO sqlc_transfers (sender, receiver, amount) VALUES ($1, $2, $3);
