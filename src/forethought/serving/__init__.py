"""An OpenAI-compatible endpoint that never shows a thought."""
