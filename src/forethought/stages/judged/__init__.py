"""What a stage shows a judge, and where its verdicts are kept."""
