// Reads the relay's feed of events, for a program that cannot be called. C# 5 for .NET Framework 4.5 to 4.8 and Mono,
// without packages.
//
//   csc /r:System.Runtime.Serialization.dll Feed.cs            (Mono: mcs instead of csc; Windows has csc in
//                                                               C:\Windows\Microsoft.NET\Framework64\v4.0.30319)
//   set RELAY_URL=https://relay.example.com
//   set RELAY_KEY=...
//   Feed.exe [feed-next]                                       (Mono: mono Feed.exe ...)
//
// feed-next is the file that keeps where we are.

using System;
using System.Collections.Generic;
using System.IO;
using System.Net;
using System.Runtime.Serialization;
using System.Runtime.Serialization.Json;
using System.Text;
using System.Threading;

[DataContract]
public class Page
{
    [DataMember(Name = "items")] public List<Event> Items;
    [DataMember(Name = "next")] public string Next;
}

/// <summary>The part of an event that this program uses; api/schemas has all of it.</summary>
[DataContract]
public class Event
{
    [DataMember(Name = "type")] public string Type;
    [DataMember(Name = "site")] public string Site;
    [DataMember(Name = "subject")] public string Subject;
    [DataMember(Name = "sequence")] public string Sequence;
    [DataMember(Name = "data")] public EventData Data;
}

[DataContract]
public class EventData
{
    [DataMember(Name = "order")] public Order Order;
}

[DataContract]
public class Order
{
    [DataMember] public string OrderReference;
    [DataMember] public string Status;
}

public static class Feed
{
    /// <summary>
    /// Your part: store the event if its sequence is above that of its subject (docs/receiving.md has the statement).
    /// It gets the events of an order in their order. If the program ends before next is stored, they come again.
    /// </summary>
    static void Handle(Event e)
    {
        if (e.Type.StartsWith("audatex.parts.order.", StringComparison.Ordinal))
        {
            Console.WriteLine("{0} {1} {2} {3}", e.Type, e.Site, e.Data.Order.OrderReference, e.Data.Order.Status);
        }
    }

    /// <summary>Returns the next page. It waits for half a minute if there is no event yet.</summary>
    static Page Read(string after)
    {
        var url = Environment.GetEnvironmentVariable("RELAY_URL") + "/v1/events?waitSeconds=30";
        if (after != "")
        {
            url += "&after=" + Uri.EscapeDataString(after);
        }
        var request = (HttpWebRequest)WebRequest.Create(url);
        request.Headers["Authorization"] = "Bearer " + Environment.GetEnvironmentVariable("RELAY_KEY");
        request.Timeout = 60000;
        using (var response = request.GetResponse())
        {
            return (Page)new DataContractJsonSerializer(typeof(Page)).ReadObject(response.GetResponseStream());
        }
    }

    static void Save(string file, string next)
    {
        using (var stream = new FileStream(file + ".new", FileMode.Create))
        {
            var bytes = Encoding.ASCII.GetBytes(next);
            stream.Write(bytes, 0, bytes.Length);
            stream.Flush(true);
        }
        if (File.Exists(file))
        {
            File.Replace(file + ".new", file, null);
        }
        else
        {
            File.Move(file + ".new", file);
        }
    }

    static int Main(string[] args)
    {
        ServicePointManager.SecurityProtocol |= SecurityProtocolType.Tls12; // .NET Framework 4.5 has it off
        var file = args.Length > 0 ? args[0] : "feed-next";
        var after = File.Exists(file) ? File.ReadAllText(file) : ""; // without one: the oldest event that is kept
        while (true)
        {
            var wait = 5;
            try
            {
                var page = Read(after);
                page.Items.ForEach(Handle);
                after = page.Next;
                Save(file, after);
                continue;
            }
            catch (WebException error)
            {
                Console.Error.WriteLine(error.Message);
                var answer = error.Response as HttpWebResponse;
                if (answer != null)
                {
                    switch (answer.StatusCode)
                    {
                        case HttpStatusCode.Unauthorized:
                        case HttpStatusCode.Forbidden:
                            return 1; // the key is wrong, revoked or expired
                        case HttpStatusCode.Gone:
                            after = ""; // the log no longer has what follows: read GET /v1/orders as well
                            break;
                    }
                    if (!int.TryParse(answer.Headers["Retry-After"], out wait))
                    {
                        wait = 5;
                    }
                    answer.Close();
                }
            }
            catch (Exception error)
            {
                Console.Error.WriteLine(error); // an event that could not be handled: the same page again
            }
            Thread.Sleep(TimeSpan.FromSeconds(wait));
        }
    }
}
