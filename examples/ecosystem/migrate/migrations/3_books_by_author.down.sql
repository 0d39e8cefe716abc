DROP INDEX migrate_books_by_author;
