"""Where decisions and I/O meet: the pool, the life of one request, background jobs, the running process."""
