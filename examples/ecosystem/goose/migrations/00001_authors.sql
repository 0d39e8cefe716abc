-- +goose Up
CREATE TABLE IF NOT EXISTS goose_authors (
	id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	name text NOT NULL
);

-- +goose Down
DROP TABLE IF EXISTS goose_authors;
