"""What the embedded PostgreSQL is made of: its programs, its data folder, and what a crash leaves behind."""
