"""What a command would start, written down instead of started; and job scripts that start it elsewhere."""
