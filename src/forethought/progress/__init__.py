"""How far a run is: shown to people, and told by those who draw."""
