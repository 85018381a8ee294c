"""How requests travel: JSON to objects and back, with one set of checks for every way in."""
