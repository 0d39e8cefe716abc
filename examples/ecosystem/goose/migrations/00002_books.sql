-- +goose Up
CREATE TABLE IF NOT EXISTS goose_books (
	id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	author_id uuid NOT NULL,
	title text NOT NULL
);

-- +goose Down
DROP TABLE IF EXISTS goose_books;
