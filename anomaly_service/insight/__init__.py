"""What the command line, pages and programs ask of what is stored."""
