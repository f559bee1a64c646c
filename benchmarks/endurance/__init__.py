"""Many clients at random, kills, races: whether what was promised holds. Each is a program of its own."""
