DROP TABLE migrate_books;
