"""The books: one writer thread, read-only readers, and all the SQL that there is."""
