-- Budgets, and the money in them.
--
--     budget           what somebody set; its identity is what it covers, its period and its zone
--     budget_account   one period of it: what was spent by slices that are closed, and what live ones were granted
--     budget_slice     the part of an account that one process may spend on its own
--     budget_delta     what a process reserved and spent, written in the transaction of the intent or the outcome itself
--
-- Never is spent + granted above the hard limit, and nobody reserves beyond his slice, so no budget is overshot (P4). A slice
-- whose process died is closed at what its deltas say: what it had reserved counts as spent, as its calls end `unknown`.

create table budget (
    id                bigint generated always as identity primary key,
    tenant            text collate "C" not null references tenant (id),
    period            text not null check (period in ('day', 'week', 'month', 'total')),
    timezone          text not null default 'UTC',
    agent             text collate "C",
    lane              text collate "C",
    task_type         text collate "C",
    key_id            text collate "C",
    hard_nano         bigint check (hard_nano >= 0),
    soft_nano         bigint check (soft_nano >= 0),
    on_hard           text not null default 'park' check (on_hard in ('park', 'refuse')),
    ladder            jsonb not null default '[]',
    interactive_share double precision not null default 0 check (interactive_share between 0 and 1),
    forced            text[] not null default '{}',
    lifted            text[] not null default '{}',
    -- the settings' version from which on processes reserve for it: until all that live have read it, nobody is granted anything
    since_version     bigint not null,
    created_at        timestamptz not null default now(),
    updated_at        timestamptz not null default now(),
    unique nulls not distinct (tenant, agent, lane, task_type, key_id, period, timezone)
);

create table budget_account (
    id           bigint generated always as identity primary key,
    budget       bigint not null references budget (id) on delete cascade,
    begins       timestamptz not null,
    ends         timestamptz,
    opened       boolean not null default false,
    spent_nano   bigint not null default 0,
    granted_nano bigint not null default 0,
    exhausted_at timestamptz,
    unique (budget, begins)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);

create table budget_slice (
    account       bigint not null references budget_account (id) on delete cascade,
    process       bigint not null,
    granted_nano  bigint not null default 0,
    spent_nano    bigint not null default 0,
    reserved_nano bigint not null default 0,
    primary key (account, process)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
create index budget_slice_by_process on budget_slice (process);

create table budget_delta (
    process       bigint not null,
    accounts      bigint[] not null,
    spent_nano    bigint not null,
    reserved_nano bigint not null
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
create index budget_delta_by_process on budget_delta (process);

-- Calls that were under way when an account was opened: they count at their worst case until they have their entry.
create table budget_opening (
    account bigint not null references budget_account (id) on delete cascade,
    call_id uuid not null,
    nano    bigint not null,
    primary key (account, call_id)
);

-- How far a process has read budgets (null in processes whose code knows of none), and its last lease: what comes late of an
-- earlier one is refused. A call over the wire keeps the accounts it reserved in.
alter table process add column budgets_seen bigint, add column budgets_turn bigint not null default 0;
alter table wire_call add column accounts text;

-- Locks accounts of a process in their order, with `others`, and counts its deltas in. Those of an account it has no slice
-- of any more count as spent: what was reserved did already, when the slice was closed.
create function fold_budget_deltas(of_process bigint, others bigint[]) returns void language plpgsql volatile as $$
begin
    perform from budget_account a
    where a.id in (
        select s.account from budget_slice s where s.process = of_process
        union select t.account from budget_delta d cross join lateral unnest(d.accounts) as t (account) where d.process = of_process
        union select unnest(others)
    )
    order by a.id for no key update;
    with gone as (
        delete from budget_delta d where d.process = of_process returning d.accounts, d.spent_nano, d.reserved_nano
    ), sums as materialized (
        select t.account, sum(g.spent_nano)::bigint as spent, sum(g.reserved_nano)::bigint as reserved
        from gone g cross join lateral unnest(g.accounts) as t (account)
        group by t.account
    ), sliced as (
        update budget_slice s set spent_nano = s.spent_nano + m.spent, reserved_nano = s.reserved_nano + m.reserved
        from sums m where s.account = m.account and s.process = of_process
        returning s.account
    )
    update budget_account a set spent_nano = a.spent_nano + m.spent + m.reserved
    from sums m where a.id = m.account and m.account not in (select s.account from sliced s);
end
$$;

-- Closes the slices of a process, but those of the accounts it keeps: what is reserved in them counts as spent.
create function close_budget_slices(of_process bigint, kept bigint[]) returns void language plpgsql volatile as $$
begin
    with closed as (
        delete from budget_slice s where s.process = of_process and s.account <> all (kept) returning s.*
    )
    update budget_account a
    set spent_nano = a.spent_nano + c.spent_nano + c.reserved_nano, granted_nano = a.granted_nano - c.granted_nano
    from closed c where a.id = c.account;
end
$$;

-- Finds or makes the account of a budget's period. One whose budget was in force before its period opens at nothing. Else
-- what was spent or reserved in the period before counts; and for that every process must have read the budget, so that no
-- call is made any more that reserves nothing for it. A call belongs to the period in which it was reserved, as its id tells.
create function open_budget_account(of_budget bigint, from_at timestamptz, to_at timestamptz)
    returns table (account bigint, opened boolean) language plpgsql volatile as $$
#variable_conflict use_column
declare
    b budget%rowtype;
    a budget_account%rowtype;
    least_id uuid := uuid7_floor(greatest(from_at, 'epoch'));
begin
    select * into b from budget where id = of_budget;
    if not found then
        return;
    end if;
    insert into budget_account (budget, begins, ends, opened)
    values (of_budget, from_at, to_at, b.created_at < from_at - interval '1 minute')
    on conflict (budget, begins) do nothing;
    select * into a from budget_account where budget = of_budget and begins = from_at for no key update;
    if a.opened or exists (select from process p where p.budgets_seen < b.since_version) then
        return query select a.id, a.opened;
        return;
    end if;
    with paid as (
        select paid_since(of_budget, from_at) as nano -- see 0021
    ), under_way as materialized (
        select s.call_id, s.reserved_nano as nano
        from queue q
        join step s on s.run_id = q.run_id
        join run r on r.id = q.run_id
        where q.tenant = b.tenant and q.started_at is not null and s.state = 'intent' and s.reserved_nano > 0
            and s.call_id >= least_id and (b.agent is null or q.class = b.agent) and (b.lane is null or q.lane = b.lane)
            and (b.task_type is null or r.metadata ->> 'task_type' = b.task_type) and (b.key_id is null or r.key_id = b.key_id)
        union all
        select w.call_id, w.reserved_nano from wire_call w
        where w.tenant = b.tenant and w.reserved_nano > 0 and w.call_id >= least_id
            and (b.agent is null or w.key_id = b.agent) and (b.lane is null or w.lane = b.lane)
            and (b.task_type is null or w.task_type = b.task_type) and (b.key_id is null or w.key_id = b.key_id)
    ), noted as (
        insert into budget_opening (account, call_id, nano) select a.id, u.call_id, u.nano from under_way u
    )
    update budget_account t
    set opened = true,
        spent_nano = t.spent_nano + (select p.nano from paid p) + coalesce((select sum(u.nano) from under_way u), 0)::bigint
    where t.id = a.id;
    return query select a.id, true;
end
$$;

-- One lease of a process: its deltas are counted in, what it does not keep is taken back, what it wants is granted as far as
-- there is. What it does not name it has not any more: its slice of that account is closed.
--
-- It wants money for the interactive lane (`inner_wants`) and for others, who get nothing of the last part of the limit, beyond
-- its `line`; of `firsts` it can make no use of less. Comfort, so that it need not ask for each call, is granted while more
-- than a twentieth of the limit is free, and to all processes together no more than a hundredth of it. `stranded` is what it had
-- reserved for calls that it gave up: these count as spent. Returns one row of nulls when the process is not on record
-- any more, or has made a later lease.
create function lease_budgets(
    of_process bigint, of_turn bigint, of_accounts bigint[], keeps bigint[], inner_wants bigint[], wants bigint[], firsts bigint[],
    comforts bigint[], stranded bigint[], stranded_nano bigint[]
)
    returns table (
        account bigint, granted bigint, spent bigint, reserved bigint, hard bigint, line bigint, comfort_max bigint, near boolean,
        past boolean, sharers bigint
    ) language plpgsql volatile as $$
#variable_conflict use_column
declare
    crowd bigint;
    ask record;
    inner_given bigint;
    given bigint;
begin
    update process set budgets_turn = of_turn where id = of_process and budgets_turn < of_turn;
    if not found then
        return query select null::bigint, null::bigint, null::bigint, null::bigint, null::bigint, null::bigint, null::bigint,
            null::boolean, null::boolean, null::bigint;
        return;
    end if;
    perform fold_budget_deltas(of_process, of_accounts);
    update budget_slice s set spent_nano = s.spent_nano + t.nano, reserved_nano = s.reserved_nano - t.nano
    from unnest(stranded, stranded_nano) as t (account, nano) where s.account = t.account and s.process = of_process;
    perform close_budget_slices(of_process, of_accounts);
    insert into budget_slice (account, process)
    select a.id, of_process from budget_account a where a.id = any (of_accounts) and a.opened
    on conflict (account, process) do nothing;
    with kept as materialized (
        select s.account, s.granted_nano as was, greatest(least(s.granted_nano, k.keep), s.spent_nano + s.reserved_nano) as now
        from budget_slice s join unnest(of_accounts, keeps) as k (account, keep) on k.account = s.account
        where s.process = of_process
    ), told as (
        update budget_slice s set granted_nano = k.now
        from kept k where s.account = k.account and s.process = of_process and k.now <> k.was
    )
    update budget_account a set granted_nano = a.granted_nano + k.now - k.was
    from kept k where a.id = k.account and k.now <> k.was;
    select greatest(1, count(*)) into crowd from process p where p.role <> 'keeper';
    for ask in
        select u.*, a.spent_nano + a.granted_nano as used, a.spent_nano as closed, s.granted_nano as granted,
            s.granted_nano - s.spent_nano - s.reserved_nano as idle, h.hard, h.hard - (h.hard * b.interactive_share)::bigint as line,
            h.hard / (100 * crowd) as comfort_max
        from unnest(of_accounts, inner_wants, wants, firsts, comforts) as u (account, inner_want, want, first, comfort)
        join budget_slice s on s.account = u.account and s.process = of_process
        join budget_account a on a.id = u.account
        join budget b on b.id = a.budget
        cross join lateral (select coalesce(b.hard_nano, 4000000000000000000) as hard) as h
    loop
        inner_given := greatest(0, least(ask.inner_want, ask.hard - ask.used));
        given := inner_given + greatest(0, least(ask.want, ask.line - ask.used - inner_given));
        if (case when ask.inner_want > 0 then inner_given else given end) < ask.first then
            given := 0;
        end if;
        given := given + greatest(0, least(
            least(ask.comfort, ask.comfort_max) - ask.idle, ask.line - ask.used - given, ask.hard - ask.used - given - ask.hard / 20
        ));
        if given > 0 then
            update budget_slice s set granted_nano = s.granted_nano + given
            where s.account = ask.account and s.process = of_process;
            update budget_account a set granted_nano = a.granted_nano + given where a.id = ask.account;
        end if;
        return query
        select ask.account, ask.granted + given, ask.closed + coalesce(sum(s.spent_nano), 0)::bigint,
            coalesce(sum(s.reserved_nano), 0)::bigint, ask.hard, ask.line, ask.comfort_max,
            ask.hard - ask.used - given < ask.hard / 20 or (ask.first > 0 and given = 0), ask.used + given > ask.line, count(*)
        from budget_slice s where s.account = ask.account;
    end loop;
end
$$;
