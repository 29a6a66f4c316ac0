"""Pictures and charts: each function takes arrays and returns one picture, uint8 `(height, width, 3)`."""
