DROP TABLE migrate_authors;
