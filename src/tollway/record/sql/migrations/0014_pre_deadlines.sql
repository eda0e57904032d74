-- A live run's deadline, for statements that write `queue`. They must not read `run` themselves: PostgreSQL 18 can crash where
-- a plan prunes partitions while it runs and has to look again at a row that somebody changed meanwhile. A function has an
-- executor of its own. (In plpgsql: a function in SQL may be planned into its caller.)
create function deadline_of(run uuid) returns timestamptz language plpgsql stable strict as $$
begin
    return (select r.deadline_at from run r where r.id = deadline_of.run);
end
$$;
