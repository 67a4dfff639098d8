"""What is kept on disk: run folders, tables, references, checkpoints."""
