CREATE TABLE sqlc_accounts (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    owner text NOT NULL UNIQUE,
    balance bigint NOT NULL CHECK (balance >= 0)
);
