-- Run once, by the bootstrap superuser in template1, before the data folder gets its name.
-- `tollway` owns the record and has what managed services give an owner, not superuser;
-- `tollway_app` is what the processes connect as: migrations grant it what it needs, table by table.

create extension vector;

create role tollway login createdb createrole;

create role tollway_app login;

grant tollway_app to tollway with admin option;

create database tollway owner tollway;

revoke all on database tollway from public;

grant connect on database tollway to tollway_app;

