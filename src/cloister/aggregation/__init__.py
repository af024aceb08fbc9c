"""The arithmetic of a round: vectors, their weighted mean, and the strategies that make the next model of it."""
