"""The tables of the staging comparison."""


def tables(found, clients, rates, machine):
    for one in found:
        print(one.cell.name, one.tls)
        for c in one.costs:
            if one.costs[c]:
                s = one.started_cpu_s(c)
                print(
                    f"{c:28} {one.speed(c).text():>18} {one.cpu_s_per_gb(c).text(2):>18} {one.max_rss_bytes(c) / 1e6:6.0f} {one.cpu_s_per_gb(c).median * one.cell.shape.total_bytes / 1e6 / one.cell.shape.count:8.2f} ms/file {s.median * 1e3 / one.cell.shape.count if s else 0:.2f}"
                )
    return str(rates)
