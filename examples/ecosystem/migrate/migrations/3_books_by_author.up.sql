CREATE INDEX ASYNC migrate_books_by_author ON migrate_books (author_id);
