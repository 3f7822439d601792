"""Ray Serve: thin deployments over cnnray.infer."""
