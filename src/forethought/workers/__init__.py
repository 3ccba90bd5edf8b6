"""Workers on Ray that do parts of a stage."""
