"""What an owner sees of a plan, without PyTorch and without anybody's code being run."""
