"""What is written: sealed stage folders, records in Parquet, replies paid for, remote files."""
