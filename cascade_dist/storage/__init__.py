"""What is kept outside of processes: the seal of stored records, and the forms of those records."""
