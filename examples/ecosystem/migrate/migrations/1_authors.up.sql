CREATE TABLE migrate_authors (
	id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	name text NOT NULL
);
