CREATE TABLE migrate_books (
	id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	author_id uuid NOT NULL,
	title text NOT NULL
);
