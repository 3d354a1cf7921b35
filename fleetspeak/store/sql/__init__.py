"""The store on SQL: queries by topic, written once; a dialect for each database."""
