"""Contents of the container images: lock files, licences, SOUP list, bill of materials."""
