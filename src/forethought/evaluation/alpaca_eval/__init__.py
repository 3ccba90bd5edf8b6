"""AlpacaEval 2: its files, its annotator, its win rates at equal lengths."""
