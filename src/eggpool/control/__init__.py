"""How the command line talks to the running server: lines of JSON over a Unix socket beside the database."""
