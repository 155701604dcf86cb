"""Writing firmware, library and settings to boards. One module for each way to write a board."""
