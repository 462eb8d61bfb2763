"""Files that people have, brought into both tracks."""
