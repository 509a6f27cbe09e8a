"""What the images are made of: lock files, licences, the SOUP list, the bill of materials."""
