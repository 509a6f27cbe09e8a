"""What the service says about pictures: errors, checks of masks, and the forms of an answer."""
