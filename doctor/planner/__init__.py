"""Facts, tables and wishes in, a plan out: nothing here looks at a machine or changes one."""
