"""Ray Data: folders and manifests to rows to Parquet."""
