"""What happens beside training: run folder, test report, overlays, head choice."""
