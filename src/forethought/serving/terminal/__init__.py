"""`forethought chat`: a conversation in the terminal."""
