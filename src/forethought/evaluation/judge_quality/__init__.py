"""How far a judge can be trusted: place, length, persuasion, repetition, agreement."""
