"""What a run showed: figures, whether the expectations held, and a page with plots."""
