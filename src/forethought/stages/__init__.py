"""The stages of a run: each reads sealed inputs, calls one module above, writes sealed outputs."""
