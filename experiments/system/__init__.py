"""The machine: its processes, its memory, its terminal."""
