"""For people who build on cloister: small models, and checks that a pointer computes what a tensor does."""
