"""Label map -> label map that obeys rules: one small file a rule, `apply` runs them."""
