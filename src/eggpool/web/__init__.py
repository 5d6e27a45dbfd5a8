"""HTTP in: the data plane, statistics, and who may call them."""
