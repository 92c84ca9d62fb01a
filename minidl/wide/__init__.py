"""The wide names of the API: compositions of ops in a few lines each, which nothing else needs."""
