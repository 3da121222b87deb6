"""From the text of a workflow file to stages that are checked, or to all that is wrong with it."""
